"""Scripts that draw what is committed; not part of the wheel."""
