#!/usr/bin/env bash
# torchrec 1.9.2 (torch 2.14.1, CPU): an id that takes an evicted id's row in a managed-collision table starts with the stranger's
# weights.
#
# ManagedCollisionEmbeddingBagCollection gives each id a row of its own and evicts old ids when the table is full. Its collision module
# says which rows were evicted "to reset", on the assumption that the module behind it does so, and the collection documents an option
# about updates "of embedding weights on eviction". Used as it is, without DistributedModelParallel, it resets nothing, with either value
# of that option: its reset function is empty. Only the sharded variant puts new starting weights in. So the same model trained on one
# machine unsharded (a test, a notebook, a small job) has new items start as whatever the evicted ones had become, and nothing warns.
#
# Output seen, 2026-11-29 (three steps that add 1 to what they read, then three new ids in a table of four rows):
#   allow_in_place_embed_weight_update=False
#     ids [11, 12, 13] in rows [0, 1, 2] read [0.0, 0.0, 0.0]
#     ids [11, 12, 13] in rows [0, 1, 2] read [1.0, 1.0, 1.0]
#     ids [11, 12, 13] in rows [0, 1, 2] read [2.0, 2.0, 2.0]
#     ids [21, 22, 23] in rows [0, 1, 2] read [3.0, 3.0, 3.0]
#   and the same with allow_in_place_embed_weight_update=True. By the table's init_fn the last line should read [0.0, 0.0, 0.0].
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check install -q)
"${pip[@]}" torch==2.14.1 fbgemm-gpu-cpu==1.9.0 tensordict==0.15.3 torchmetrics==1.0.3 tqdm==4.70.1 pyre-extensions==0.0.32 numpy==2.4.6
"${pip[@]}" --no-deps torchrec==1.9.2 # its metadata names the CUDA build of fbgemm-gpu
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import LRU_EvictionPolicy, ManagedCollisionCollection, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

CPU = torch.device("cpu")
for in_place in (False, True):
    print(f"allow_in_place_embed_weight_update={in_place}")
    configs = [EmbeddingBagConfig(name="goods", embedding_dim=4, num_embeddings=4, feature_names=["item"], init_fn=torch.nn.init.zeros_)]
    rows = MCHManagedCollisionModule(
        zch_size=4, device=CPU, eviction_policy=LRU_EvictionPolicy(), eviction_interval=1, input_hash_size=2**62
    )
    bags = EmbeddingBagCollection(tables=configs, device=CPU)
    table = ManagedCollisionEmbeddingBagCollection(
        bags, ManagedCollisionCollection({"goods": rows}, configs), return_remapped_features=True, allow_in_place_embed_weight_update=in_place
    ).train()
    optimizer = torch.optim.SGD(bags.parameters(), lr=1.0)
    for ids in ([11, 12, 13], [11, 12, 13], [11, 12, 13], [21, 22, 23]):
        features = KeyedJaggedTensor.from_lengths_sync(["item"], torch.tensor(ids), torch.ones(len(ids), dtype=torch.int64))
        pooled, remapped = table(features)
        values = pooled["item"][:, 0].tolist()
        print(f"  ids {ids} in rows {remapped.values().tolist()} read {values}")
        optimizer.zero_grad()
        (-pooled.values().sum()).backward()
        optimizer.step()
    assert sorted(remapped.values().tolist()) == [0, 1, 2]
    assert values == [3.0, 3.0, 3.0], values
PYTHON
