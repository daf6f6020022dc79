"""``python -m distill_lab`` is ``distill-lab``; ``torchrun -m distill_lab`` too."""

from distill_lab.cli import main

main()
