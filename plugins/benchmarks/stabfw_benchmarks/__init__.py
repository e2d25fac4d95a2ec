"""Built-in benchmarks, one folder each, registered like any third party's."""
