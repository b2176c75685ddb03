"""The page of `doorward share --page`, from which a browser knocks: one self-contained HTML file."""
