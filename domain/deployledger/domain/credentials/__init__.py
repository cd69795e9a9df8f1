"""What a credential is: by its name, by its shape, and by where it stands in a text."""
