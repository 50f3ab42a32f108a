"""Words into token ids: wording, conversations, marks."""
