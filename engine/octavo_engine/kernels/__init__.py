"""Operations of a decoder: what they compute (`operations`, `reference`), on a GPU by Triton, and how they are compiled."""
