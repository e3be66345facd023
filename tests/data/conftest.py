from pictures import encoded, lay, picture, project  # noqa: F401
