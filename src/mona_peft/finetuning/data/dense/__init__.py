"""Images with objects or label maps as training samples."""
