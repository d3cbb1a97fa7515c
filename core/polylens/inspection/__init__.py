"""A page that shows what a model is given of a record: crops, tokens, what is supervised."""
