"""Optuna storages: SQLite files and PostgreSQL servers."""
