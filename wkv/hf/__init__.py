"""RWKV models for transformers. Importing this package registers them with the Auto classes.

    import wkv.hf
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("folder of an exported model")

The import has this side effect on purpose, like other plugins of transformers. For RWKV-4 our class
replaces that of transformers, which computes wrong results for batches that continue a state.
"""

from wkv.errors import MissingExtraError

OLDEST = (5, 0)
"""The oldest version of transformers whose generation and caches these classes support."""

_INSTALL = "pip install -U 'wkv[hf]'"

try:
    import transformers
except ImportError as error:
    raise MissingExtraError(
        f"wkv.hf needs transformers, which is not installed: {_INSTALL}"
    ) from error
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < OLDEST:
    raise MissingExtraError(
        f"wkv.hf needs transformers {'.'.join(map(str, OLDEST))} or newer, "
        f"{transformers.__version__} is installed: {_INSTALL}"
    )

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from wkv.hf.cache import RwkvCache
from wkv.hf.configuration_rwkv4 import RwkvConfig
from wkv.hf.configuration_rwkv5 import Rwkv5Config
from wkv.hf.configuration_rwkv6 import Rwkv6Config
from wkv.hf.configuration_rwkv7 import RWKV7Config
from wkv.hf.configuration_rwkv7a import RWKV7aConfig
from wkv.hf.modeling_rwkv4 import RwkvForCausalLM, RwkvModel
from wkv.hf.modeling_rwkv5 import Rwkv5ForCausalLM, Rwkv5Model
from wkv.hf.modeling_rwkv6 import Rwkv6ForCausalLM, Rwkv6Model
from wkv.hf.modeling_rwkv7 import RWKV7ForCausalLM, RWKV7Model
from wkv.hf.modeling_rwkv7a import RWKV7aForCausalLM, RWKV7aModel

CLASSES = (
    (RwkvConfig, RwkvModel, RwkvForCausalLM),
    (Rwkv5Config, Rwkv5Model, Rwkv5ForCausalLM),
    (Rwkv6Config, Rwkv6Model, Rwkv6ForCausalLM),
    (RWKV7Config, RWKV7Model, RWKV7ForCausalLM),
    (RWKV7aConfig, RWKV7aModel, RWKV7aForCausalLM),
)
"""The config class, the model without head and the model with head of each generation."""


def register() -> None:
    """Register all generations with transformers' Auto classes; importing `wkv.hf` calls this."""
    for config, model, language_model in CLASSES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, language_model, exist_ok=True)


register()

__all__ = [
    "CLASSES",
    "RWKV7Config",
    "RWKV7ForCausalLM",
    "RWKV7Model",
    "RWKV7aConfig",
    "RWKV7aForCausalLM",
    "RWKV7aModel",
    "Rwkv5Config",
    "Rwkv5ForCausalLM",
    "Rwkv5Model",
    "Rwkv6Config",
    "Rwkv6ForCausalLM",
    "Rwkv6Model",
    "RwkvCache",
    "RwkvConfig",
    "RwkvForCausalLM",
    "RwkvModel",
    "register",
]
