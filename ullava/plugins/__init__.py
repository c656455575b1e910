"""Other programs that ask our models: each module speaks one program's interface, and imports it when it is used."""
