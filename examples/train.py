"""
Train a small language model the way MiniMind does, logging to offline_tracker.

    python examples/train.py
    torchrun --nproc_per_node 2 examples/train.py
    torchrun --nproc_per_node 2 examples/train.py --from_resume 1     # after a crash: the same run goes on

The text is Python's own help topics, so there is nothing to download. In your own script one line changes:
``import swanlab as wandb`` becomes ``import offline_tracker as wandb``. Here ``--tracker`` names that module, so that
the same training can be run with offline_tracker, wandb, swanlab or none.
"""

import argparse
import importlib
import math
import os
import time
import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch installed alone; not needed here
    import torch

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset


@dataclass
class LMConfig:
    """Shape of the model; the defaults give about 0.4 M parameters."""

    vocab_size: int = 256  # one token a byte
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 352
    max_seq_len: int = 128
    rope_theta: float = 10_000.0


class RMSNorm(nn.Module):
    """Scale the last dimension to a root mean square of one, times a learned weight."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def precompute_freqs_cis(dim: int, end: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, each of shape ``(end, dim)``."""
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))
    angles = torch.outer(torch.arange(end).float(), freqs)
    return torch.cat([angles.cos()] * 2, dim=-1), torch.cat([angles.sin()] * 2, dim=-1)


def apply_rotary_pos_emb(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate *x* of shape ``(batch, heads, seq, head_dim)`` by its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, hidden = x.shape
        qkv = self.qkv_proj(x).view(batch, seq, 3, self.n_heads, hidden // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = apply_rotary_pos_emb(q, cos, sin), apply_rotary_pos_emb(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, seq, hidden))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and a residual."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class CausalLM(nn.Module):
    """Decoder-only transformer with tied embeddings; forward returns the mean cross-entropy of *labels*."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size)
        head_dim = config.hidden_size // config.num_attention_heads
        cos, sin = precompute_freqs_cis(head_dim, config.max_seq_len, config.rope_theta)
        self.register_buffer("freqs_cos", cos, persistent=False)
        self.register_buffer("freqs_sin", sin, persistent=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        seq = input_ids.shape[1]
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, self.freqs_cos[:seq], self.freqs_sin[:seq])
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def windows(text: bytes, length: int, stride: int) -> TensorDataset:
    """Cut *text* into pairs of input_ids and labels, each of shape ``(length,)``, one every *stride* bytes."""
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().unfold(0, length + 1, stride)
    return TensorDataset(tokens[:, :-1], tokens[:, 1:])


def is_main_process() -> bool:
    """Tell whether this process logs and saves."""
    return not dist.is_initialized() or dist.get_rank() == 0


def Logger(content: str) -> None:
    """Print *content* once a job, not once a process."""
    if is_main_process():
        print(content, flush=True)


def get_lr(current_step: int, total_steps: int, lr: float) -> float:
    """Return the cosine learning rate, from 1.1 times *lr* down to a tenth of it (MiniMind's formula)."""
    return lr / 10 + 0.5 * lr * (1 + math.cos(math.pi * current_step / total_steps))


def init_distributed_mode() -> tuple[int, int]:
    """Join the process group under torchrun; return rank and world size, (0, 1) without it."""
    if "RANK" not in os.environ:
        return 0, 1
    dist.init_process_group(backend="gloo")
    return dist.get_rank(), dist.get_world_size()


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, step: int, wandb: ModuleType | None
) -> None:
    """Write everything a resume needs; a kill at any moment leaves the old file or the new one, never half of one."""
    wandb_id = None
    if wandb:
        if hasattr(wandb, "get_run"):
            run = wandb.get_run()
            wandb_id = getattr(run, "id", None) if run else None
        else:
            wandb_id = getattr(wandb, "id", None)
    raw_model = model.module if isinstance(model, DistributedDataParallel) else model
    resume_data = {
        "model": raw_model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "step": step,
        "world_size": dist.get_world_size() if dist.is_initialized() else 1,
        "wandb_id": wandb_id,
    }
    tmp = path.with_suffix(".tmp")
    torch.save(resume_data, tmp)
    tmp.replace(path)


def train_epoch(
    epoch: int,
    loader: DataLoader[tuple[Tensor, ...]],
    iters: int,
    start_step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    wandb: ModuleType | None,
) -> None:
    """Train steps *start_step* + 1 to *iters* of an epoch: step, then log, then checkpoint."""
    start_time = time.monotonic()
    for step, (input_ids, labels) in enumerate(loader, start=start_step + 1):
        lr = get_lr(epoch * iters + step, args.epochs * iters, args.learning_rate)
        for param_group in optimizer.param_groups:
            param_group["lr"] = lr

        loss = model(input_ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        if step % args.log_interval == 0 or step == iters:
            current_loss = loss.item()
            current_lr = optimizer.param_groups[-1]["lr"]
            # Only steps of this process count on both sides, so the time left is right after a resume too.
            eta_min = (time.monotonic() - start_time) / (step - start_step) * (iters - step) / 60
            Logger(
                f"Epoch:[{epoch + 1}/{args.epochs}]({step}/{iters}) "
                f"loss:{current_loss:.6f} lr:{current_lr:.12f} epoch_Time:{eta_min:.2f}min"
            )
            if wandb:
                wandb.log({"loss": current_loss, "lr": current_lr, "epoch_Time": eta_min})

        if (step % args.save_interval == 0 or step == iters) and is_main_process():
            save_checkpoint(ckp_path, model, optimizer, epoch, step, wandb)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pretrain a small language model on Python's help topics")
    parser.add_argument("--save_dir", type=Path, default=Path("out"), help="folder of the checkpoint")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps_per_epoch", type=int, default=100, help="at most; fewer where the text runs out")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per process and step")
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--grad_clip", type=float, default=1.0)
    parser.add_argument("--log_interval", type=int, default=5)
    parser.add_argument("--save_interval", type=int, default=25)
    parser.add_argument("--from_resume", type=int, default=0, choices=[0, 1], help="1: go on from the checkpoint")
    parser.add_argument("--tracker", default="offline_tracker", help="module to log with: wandb, swanlab, ... or none")
    parser.add_argument("--wandb_project", default="Tiny-Pretrain")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    # 1. Processes, seed, threads
    torch.set_num_threads(1)
    rank, world_size = init_distributed_mode()
    torch.manual_seed(args.seed)
    args.save_dir.mkdir(parents=True, exist_ok=True)
    lm_config = LMConfig()
    ckp_path = args.save_dir / f"pretrain_{lm_config.hidden_size}_resume.pth"
    ckp_data: dict[str, Any] | None = None
    if args.from_resume == 1 and ckp_path.exists():
        ckp_data = torch.load(ckp_path, map_location="cpu", weights_only=True)

    # 2. Tracker, on the main process alone
    wandb = None
    if args.tracker != "none" and is_main_process():
        wandb = importlib.import_module(args.tracker)
        wandb_id = ckp_data.get("wandb_id") if ckp_data else None
        resume = "must" if wandb_id else None
        wandb_run_name = f"Pretrain-Epoch-{args.epochs}-BatchSize-{args.batch_size}-LearningRate-{args.learning_rate}"
        wandb.init(project=args.wandb_project, name=wandb_run_name, id=wandb_id, resume=resume)

    # 3. Model, data, optimizer
    text = "\n".join(topics.values()).encode()
    train_ds = windows(text, lm_config.max_seq_len, stride=16)
    train_sampler: DistributedSampler[int] = DistributedSampler(
        train_ds, world_size, rank, seed=args.seed, drop_last=True
    )
    raw_model = CausalLM(lm_config)
    optimizer = torch.optim.AdamW(raw_model.parameters(), lr=args.learning_rate)
    Logger(f"Trainable parameters: {sum(p.numel() for p in raw_model.parameters()) / 1e6:.3f}M")

    # 4. Where the checkpoint left off
    start_epoch, start_step = 0, 0
    if ckp_data:
        raw_model.load_state_dict(ckp_data["model"])
        optimizer.load_state_dict(ckp_data["optimizer"])
        start_epoch, start_step = ckp_data["epoch"], ckp_data["step"]
        if ckp_data["world_size"] != world_size:
            Logger(f"{ckp_data['world_size']} -> {world_size} processes: the steps go on, the data order is another")

    # 5. DDP
    model: nn.Module = raw_model
    if dist.is_initialized():
        model = DistributedDataParallel(raw_model)

    # 6. Train
    for epoch in range(start_epoch, args.epochs):
        train_sampler.set_epoch(epoch)
        batches = BatchSampler(train_sampler, args.batch_size, drop_last=True)
        iters = min(len(batches), args.steps_per_epoch)
        skip = start_step if epoch == start_epoch else 0
        if skip:
            Logger(f"Epoch [{epoch + 1}/{args.epochs}]: skipping the first {skip} steps")
        loader = DataLoader(train_ds, batch_sampler=list(islice(batches, skip, iters)))
        train_epoch(epoch, loader, iters, skip, model, optimizer, wandb)

    if dist.is_initialized():
        dist.destroy_process_group()
