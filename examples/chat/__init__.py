"""A chat: messages go through the outbox to the browsers of everybody in the room."""
