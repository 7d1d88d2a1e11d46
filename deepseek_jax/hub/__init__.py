"""Exchange with Hugging Face: tensor names both ways, safetensors in and out."""
