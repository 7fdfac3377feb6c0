"""The composition root: the only place that knows every part, and builds them into runs."""

from tunesmith.compose.display import Display as Display
from tunesmith.compose.evaluating import evaluate as evaluate
from tunesmith.compose.model import Loaded as Loaded, load as load
from tunesmith.compose.plan import check as check, estimate as estimate
from tunesmith.compose.train import (
    forget_peak_memory as forget_peak_memory,
    resume as resume,
    train as train,
)
