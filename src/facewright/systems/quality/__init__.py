"""Face image quality: how useful a picture of a face is for recognising the person, and why it is not."""
