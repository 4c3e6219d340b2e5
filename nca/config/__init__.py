"""The configuration: schema, validation, composition of conf/."""
