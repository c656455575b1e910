"""What the data sets' authors publish, turned into the records that the readers read; ``convert`` picks by kind."""
