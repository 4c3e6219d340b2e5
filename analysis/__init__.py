"""What studies have found: tables, pages and figures read from both stores; nothing imports it."""
