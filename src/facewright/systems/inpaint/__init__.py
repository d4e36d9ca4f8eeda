"""Systems that fill holes in pictures of faces."""
