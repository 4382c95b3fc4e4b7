"""A second model beside the one that serves: it scores the same requests, and answers nobody or a share of the users."""
