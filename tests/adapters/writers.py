"""Small adapters in the exact naming of each program, and the dense weights that they mean."""

import json

import torch
from safetensors.torch import save_file

FLA = {
    "att.receptance": "attn.r_proj", "att.key": "attn.k_proj", "att.value": "attn.v_proj",
    "att.output": "attn.o_proj", "ffn.key": "ffn.key", "ffn.value": "ffn.value",
}  # fmt: skip
RANK, ALPHA = 4, 12.0


def pairs(tensors, modules=tuple(FLA), rank=RANK, seed=0):
    """Give factors A (r, in) and B (out, r) for some matrices of every block, by official name."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.split(".", 2)[-1] in modules:
            outputs, inputs = tensor.shape
            A = 0.1 * torch.randn(rank, inputs, generator=draw)
            found[module] = A, 0.1 * torch.randn(outputs, rank, generator=draw)
    return found


def dense(tensors, pairs, scale):
    """Give the tensors of the merged model."""
    changed = {f"{name}.weight": scale * (B @ A) for name, (A, B) in pairs.items()}
    return {name: t + changed[name] if name in changed else t for name, t in tensors.items()}


def fla_name(module):
    _, block, rest = module.split(".", 2)
    return f"model.layers.{block}.{FLA[rest]}"


def hub_name(module):
    return "rwkv." + module.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")


def write_peft(folder, tensors, ending=".safetensors", **config):
    """Write a folder of peft; tensors have their whole names."""
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if ending == ".bin":
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    usual = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_rslora": False, "bias": "none",
        "init_lora_weights": True, "fan_in_fan_out": False, "rank_pattern": {},
        "alpha_pattern": {}, "target_modules": ["r_proj", "key"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(usual | config))
    return folder


def peft_pairs(pairs, rename):
    named = {}
    for module, (A, B) in pairs.items():
        named[f"base_model.model.{rename(module)}.lora_A.weight"] = A
        named[f"base_model.model.{rename(module)}.lora_B.weight"] = B
    return named


def peft_on_fla(folder, pairs):
    return write_peft(folder / "peft", peft_pairs(pairs, fla_name))


def peft_on_hub(folder, pairs):
    return write_peft(folder / "hub", peft_pairs(pairs, hub_name))


def peft_on_official(folder, pairs):
    return write_peft(folder / "rwkv7-adapter", peft_pairs(pairs, str))


def rwkv_peft(folder, pairs):
    named = {}
    for module, (A, B) in pairs.items():
        named |= {f"{module}.lora_A": A, f"{module}.lora_B": B}
    torch.save(named, folder / "rwkv-0.pth")
    return folder / "rwkv-0.pth"


def rwkvtune(folder, pairs):
    named = {}
    for module, (A, B) in pairs.items():
        named |= {f"{module}.lora_A": A, f"{module}.lora_B": B}
    return write_peft(folder / "tune", named, ".bin", bias=None, target_modules=None)


def web_rwkv(folder, pairs):
    named = {}
    for module, (A, B) in pairs.items():
        named[f"{module}.lora.0"] = A.t().half().contiguous()
        named[f"{module}.lora.1"] = B.half()
    save_file(named, folder / "lora.st")
    return folder / "lora.st"


def llama_cpp(folder, pairs, alpha=ALPHA):
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "lora.gguf", "rwkv7")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for module, (A, B) in pairs.items():
        name = module.replace("blocks.", "blk.").replace(".att.", ".time_mix_")
        name = name.replace(".ffn.", ".channel_mix_") + ".weight"
        writer.add_tensor(f"{name}.lora_a", A.numpy())
        writer.add_tensor(f"{name}.lora_b", B.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "lora.gguf"


def mlx_lm(folder, pairs):
    (folder / "mlx").mkdir()
    named = {}
    for module, (A, B) in pairs.items():
        named[f"{fla_name(module)}.lora_a"] = A.t().contiguous()
        named[f"{fla_name(module)}.lora_b"] = B.t().contiguous()
    save_file(named, folder / "mlx" / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 3}
    config["lora_parameters"] = {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0}
    (folder / "mlx" / "adapter_config.json").write_text(json.dumps(config))
    return folder / "mlx"


WITH_ALPHA = (peft_on_fla, peft_on_official, rwkvtune, llama_cpp, mlx_lm)
WITHOUT_ALPHA = (rwkv_peft, web_rwkv)
