"""Pictures as files and on pages: read within bounds, brought to sRGB, lettered, laid out on sheets."""
