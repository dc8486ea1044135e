"""The edge node: its command line, its agent, training, and the user's own modules. torch lives only here."""
