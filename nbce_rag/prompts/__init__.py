"""Words into token ids: wording, conversations, tools, marks."""
