"""Numbers to tables and pages."""
