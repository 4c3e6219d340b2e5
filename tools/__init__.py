"""Scripts of this checkout that draw pictures; not in the wheel."""
