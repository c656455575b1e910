"""Words: special tokens, answers that ground things, conversation formats, supervised spans. No torch here."""
