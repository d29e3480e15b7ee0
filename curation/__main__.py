"""``python -m curation`` is ``rs-curate``."""

from curation.cli import main

raise SystemExit(main())
