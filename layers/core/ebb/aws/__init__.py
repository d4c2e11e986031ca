"""The only package that imports boto3: it translates calls and errors, and decides nothing."""
