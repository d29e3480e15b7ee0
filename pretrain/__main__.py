"""``python -m pretrain`` is ``rs-pretrain``."""

from pretrain.cli import main

raise SystemExit(main())
