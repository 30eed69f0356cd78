"""WordPiece tokenizers (BERT, MPNet): their spec, compiled tables and steps. Importing this imports nothing."""
