"""What every trial would load or look up for itself: done once, in the server that forks the trials' processes."""

import pyarrow
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.distilbert import modeling_distilbert  # noqa: F401

from qa_train.training import commit, library_versions

pyarrow.array([0])  # its first array imports pandas
get_checkpoint_conversion_mapping("distilbert")  # type: ignore[no-untyped-call]  # compiles a thousand patterns, once a process
commit()
library_versions()
