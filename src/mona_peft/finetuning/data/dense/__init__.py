"""Images with objects or label maps as training samples."""

#: mmsegmentation shifts the hue by up to 18 of the 180 steps that OpenCV gives the hue of a byte image.
HUE_DEGREES = 36.0
