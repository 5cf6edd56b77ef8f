"""One file a contestant: it imports only its own library, torch and transformers, and runs in its own environment."""
