"""A page to label photographs with a model's own prompts, train an adapter and see what it brought."""
