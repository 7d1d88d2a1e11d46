"""Several processes that run one program: how they meet, agree, look after one another and part."""
