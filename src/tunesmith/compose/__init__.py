"""The composition root: the only place that knows every part, and builds them into runs."""

from tunesmith.compose.display import Display as Display
from tunesmith.compose.estimate import estimate as estimate
from tunesmith.compose.model import Loaded as Loaded, load as load
from tunesmith.compose.plan import check as check
from tunesmith.compose.train import resume as resume, train as train
