"""RWKV in transformers: importing this tells its Auto classes of all generations.

    import wkv.hf
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("folder of an exported model")

That import has an effect is what it is for, as with any plugin of transformers. For RWKV-4 our
class takes the place of transformers' own, which is wrong for batches that continue a state.
"""

from wkv.errors import MissingExtraError

OLDEST = (5, 0)
"""The first version whose generation and caches these classes fit."""

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
from wkv.hf.modeling_rwkv4 import RwkvConfig, RwkvForCausalLM, RwkvModel
from wkv.hf.modeling_rwkv5 import Rwkv5Config, Rwkv5ForCausalLM, Rwkv5Model
from wkv.hf.modeling_rwkv6 import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Model
from wkv.hf.modeling_rwkv7 import RWKV7Config, RWKV7ForCausalLM, RWKV7Model
from wkv.hf.modeling_rwkv7a import RWKV7aConfig, RWKV7aForCausalLM, RWKV7aModel

CLASSES = (
    (RwkvConfig, RwkvModel, RwkvForCausalLM),
    (Rwkv5Config, Rwkv5Model, Rwkv5ForCausalLM),
    (Rwkv6Config, Rwkv6Model, Rwkv6ForCausalLM),
    (RWKV7Config, RWKV7Model, RWKV7ForCausalLM),
    (RWKV7aConfig, RWKV7aModel, RWKV7aForCausalLM),
)
"""Config, model without and with its head, by generation."""


def register() -> None:
    """Tell transformers' Auto classes of all generations; importing `wkv.hf` has done it."""
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
