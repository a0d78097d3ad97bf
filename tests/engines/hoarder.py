"""The mock with a prefix cache and no endpoint that empties it, like TensorRT-LLM. For tests only."""

from tests.engines import mock

SCORING = mock.SCORING
effective = mock.effective
launch = mock.launch
