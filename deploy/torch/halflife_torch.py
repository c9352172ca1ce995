"""Weights and optimizer state between PyTorch and halflife, as plain safetensors files.

    save_weights("model.safetensors", model)                 # then: halflife-server checkpoint import ...
    save_state("state.safetensors", model, optimizer)
    load_weights("model.safetensors", model)                 # after: halflife-server checkpoint export ...
    load_state("state.safetensors", model, optimizer)

Promises: what is loaded fits the model and the optimizer exactly, or a ValueError says what does not and nothing is
changed. State goes by the names of model.named_parameters(), so groups and their order may differ on the two sides.
Does not: convert dtypes (weights are float32), move learning-rate schedulers (set their last_epoch to the step), or
need anything but torch. For torch.optim.AdamW, Adam and SGD, torch 1.12 and newer. The files: docs/checkpoints.md.
"""

import ctypes
import json
import os
import struct

import torch

ARRAYS = {"AdamW": ["exp_avg", "exp_avg_sq"], "Adam": ["exp_avg", "exp_avg_sq"], "SGD": ["momentum_buffer"]}
SETTINGS = {
    "AdamW": ["lr", "weight_decay", "betas", "eps", "amsgrad"],
    "Adam": ["lr", "weight_decay", "betas", "eps", "amsgrad"],
    "SGD": ["lr", "weight_decay", "momentum", "dampening", "nesterov"],
}
DTYPES = {"F32": torch.float32, "I64": torch.int64}


# ---- safetensors ----


def write_safetensors(path, tensors, metadata):
    """Writes float32 and int64 tensors, in the dict's order; the file is there whole or not at all."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, arrays, begin = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise ValueError(f"{name}: expected float32 or int64, found {tensor.dtype}")
        array = tensor.detach().cpu().contiguous()
        end = begin + array.numel() * array.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        arrays.append(array)
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            size = array.numel() * array.element_size()
            file.write(ctypes.string_at(array.data_ptr(), size) if size else b"")
    os.replace(partial, path)


def read_safetensors(path):
    """The float32 and int64 tensors of a file by name, in the order of their data, and its metadata."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}") from error
    tensors, expected = {}, 0
    for name, entry in entries:
        begin, end = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{path}: {name}: expected F32 or I64, found {entry['dtype']}")
        count = 1
        for dim in entry["shape"]:
            count *= dim
        if begin != expected or end - begin != count * (4 if dtype is torch.float32 else 8):
            raise ValueError(f"{path}: {name}: expected {entry['shape']} at {expected}, found bytes {begin} to {end}")
        tensor = torch.empty(count, dtype=dtype)
        if 8 + size + end > len(data):
            raise ValueError(f"{path}: expected {8 + size + end} bytes, found {len(data)}")
        ctypes.memmove(tensor.data_ptr(), data[8 + size + begin : 8 + size + end], end - begin)
        tensors[name] = tensor.reshape(entry["shape"])
        expected = end
    return tensors, metadata


# ---- weights ----


def save_weights(path, model):
    """Writes parameters and float buffers, and what kind each is. Integer buffers, such as the batch counts of batch
    norm, are left out: halflife holds no integers."""
    tensors, record, owners = {}, [], {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point():
            continue
        shape = list(value.shape)
        if id(value) in owners:
            record.append({"name": name, "shape": shape, "role": {"tied_to": owners[id(value)]}})
            continue
        owners[id(value)] = name
        role = "buffer"
        if isinstance(value, torch.nn.Parameter):
            role = "trainable" if value.requires_grad else "frozen"
        tensors[name] = value
        record.append({"name": name, "shape": shape, "role": role})
    write_safetensors(path, tensors, {"format": "pt", "halflife_model": json.dumps(record)})


def load_weights(path, model):
    """Puts the weights of a file into a model."""
    tensors, _ = read_safetensors(path)
    places = {name: value for name, value in model.state_dict(keep_vars=True).items() if value.is_floating_point()}
    for name, tensor in tensors.items():
        if name not in places:
            raise ValueError(f"{path}: {name}: expected a tensor of the model, found another")
        place = places[name]
        if place.shape != tensor.shape or place.dtype != tensor.dtype:
            expected, found = (place.dtype, list(place.shape)), (tensor.dtype, list(tensor.shape))
            raise ValueError(f"{path}: {name}: expected {expected}, found {found}")
    loaded = {id(places[name]) for name in tensors}
    for name, place in places.items():
        if id(place) not in loaded:
            raise ValueError(f"{path}: {name}: expected its weights, found none")
    with torch.no_grad():
        for name, tensor in tensors.items():
            places[name].copy_(tensor)


# ---- state ----


def kind_of(optimizer):
    """The class that the state is of; subclasses may compute something else, and are refused."""
    for kind in ARRAYS:
        if type(optimizer) is getattr(torch.optim, kind):
            return kind
    raise ValueError(f"expected torch.optim.AdamW, Adam or SGD, found {type(optimizer).__name__}")


def arrays_of(kind, group):
    """Names of the arrays that a parameter of a group has once it was updated."""
    if kind == "SGD":
        return ARRAYS[kind] if group["momentum"] else []
    return ARRAYS[kind] + (["max_exp_avg_sq"] if group["amsgrad"] else [])


def names_of(model, optimizer):
    """Names of the trainable parameters of each group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        if group.get("maximize"):
            raise ValueError(f"param_groups[{index}].maximize: expected False, found True")
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError(f"param_groups[{index}]: expected parameters of the model, found another")
        groups.append([names[id(parameter)] for parameter in group["params"] if parameter.requires_grad])
    return groups


def plain(setting):
    """A setting as JSON holds it; lr may be a tensor."""
    return setting if isinstance(setting, (bool, tuple, list)) else float(setting)


def save_state(path, model, optimizer):
    """Writes the optimizer's state under the names of the model's parameters."""
    kind = kind_of(optimizer)
    parameters = dict(model.named_parameters())
    counts, tensors, groups = {}, {}, []
    for group, names in zip(optimizer.param_groups, names_of(model, optimizer)):
        groups.append({**{key: plain(group[key]) for key in SETTINGS[kind]}, "names": names})
        for name in names:
            state, arrays = optimizer.state.get(parameters[name], {}), arrays_of(kind, group)
            present = [array for array in arrays if state.get(array) is not None]
            if present != arrays and present:
                raise ValueError(f"{name}: expected {arrays} in the optimizer's state, found {present}")
            if kind != "SGD":
                counts[f"{name}.step"] = torch.tensor(int(state.get("step", 0)))
            elif present != arrays:
                counts[f"{name}.step"] = torch.tensor(0)  # torch's SGD does not count; this one was never updated
            for array in present:
                tensors[f"{name}.{array}"] = state[array]
    metadata = {"format": "halflife-torch-state", "format_version": "1", "optimizer": kind}
    metadata["param_groups"] = json.dumps(groups)
    write_safetensors(path, {**counts, **tensors}, metadata)


def load_state(path, model, optimizer):
    """Gives the optimizer the state of a file, and its groups the file's settings, lr among them."""
    kind = kind_of(optimizer)
    tensors, metadata = read_safetensors(path)
    if metadata.get("optimizer") != kind:
        raise ValueError(f"{path}: expected the state of {kind}, found that of {metadata.get('optimizer')}")
    of_name = {}
    for group in json.loads(metadata["param_groups"]):
        of_name.update({name: {key: group[key] for key in SETTINGS[kind]} for name in group["names"]})
    parameters = dict(model.named_parameters())
    groups = names_of(model, optimizer)
    known = {name for names in groups for name in names}
    if known != set(of_name):
        differing = sorted(known.symmetric_difference(of_name))
        raise ValueError(f"{path}: expected the optimizer's parameters, found others: {differing[:10]}")
    states, settings = {}, []
    for index, names in enumerate(groups):
        if any(of_name[name] != of_name[names[0]] for name in names):
            raise ValueError(f"{path}: expected one group for param_groups[{index}], found several with other settings")
        own = of_name[names[0]] if names else {}
        settings.append({key: tuple(value) if key == "betas" else value for key, value in own.items()})
        for name in names:
            states[name] = state_of(path, kind, name, parameters[name], own, tensors)
    if tensors:
        raise ValueError(f"{path}: expected no further keys, found {sorted(tensors)[:10]}")
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)
    for name, state in states.items():
        optimizer.state[parameters[name]] = state


def state_of(path, kind, name, parameter, group, tensors):
    """One parameter's state, taken out of the file's tensors."""
    steps = tensors.pop(f"{name}.step", None)
    state = {}
    arrays = arrays_of(kind, group)
    for array in arrays:
        tensor = tensors.pop(f"{name}.{array}", None)
        if tensor is None:
            continue
        if tensor.shape != parameter.shape or tensor.dtype != torch.float32:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"{path}: {name}.{array}: expected float32 {list(parameter.shape)}, found {found}")
        state[array] = tensor.to(parameter.device)
    if steps is None and kind != "SGD":
        raise ValueError(f"{path}: {name}.step: expected a number of updates, found none")
    if steps is not None and int(steps) == 0:
        return {}  # torch makes the state at the first update
    if list(state) != arrays:
        raise ValueError(f"{path}: {name}: expected {arrays}, found {list(state)}")
    if kind != "SGD":
        state["step"] = torch.tensor(float(steps))
    return state
