"""Images and videos: decoding of files in processes of their own."""
