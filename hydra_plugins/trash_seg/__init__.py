"""What Hydra finds of trash_seg's sweeper and launchers. Hydra imports this at every start: nothing heavy here."""
