"""What a folder lies on: real lines of mountinfo, and the real filesystems of this machine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offline_tracker import filesystem
from offline_tracker.errors import StoreError, UsageError
from offline_tracker.filesystem import (
    LOCAL,
    NETWORK,
    Mount,
    beegfs_locks,
    existing,
    inspect,
    judge,
    mount_of,
    mounts,
    parse_mountinfo,
    probe_lock,
    scratch,
    statfs_type,
)

MOUNTINFO = r"""
22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw,errors=remount-ro
31 27 0:27 / /tmp rw,nosuid,nodev shared:18 - tmpfs tmpfs rw,size=65743988k,nr_inodes=1048576,inode64
52 27 0:45 / /home rw,relatime shared:24 - autofs /etc/auto.home rw,fd=17,pgrp=1,timeout=300,minproto=5,maxproto=5,indirect
53 52 0:52 / /home/ada rw,nosuid,relatime shared:25 - nfs4 nas:/export/home/ada rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=10.1.0.7,local_lock=none,addr=10.1.0.2
54 27 0:53 / /nfs3 rw,relatime - nfs nas:/export/data rw,vers=3,rsize=524288,wsize=524288,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=10.1.0.2,mountvers=3,mountport=20048,mountproto=udp,local_lock=none,addr=10.1.0.2
55 27 0:54 / /nfs3-nolock rw,relatime - nfs nas:/export/data rw,vers=3,rsize=524288,wsize=524288,namlen=255,hard,nolock,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=10.1.0.2,mountvers=3,mountport=20048,mountproto=udp,local_lock=all,addr=10.1.0.2
56 27 0:55 / /nfs3-flock rw,relatime - nfs nas:/export/data rw,vers=3,hard,proto=tcp,sec=sys,local_lock=flock,addr=10.1.0.2
57 27 0:56 / /nfs3-posix rw,relatime - nfs nas:/export/data rw,vers=3,hard,proto=tcp,sec=sys,local_lock=posix,addr=10.1.0.2
60 27 0:60 / /lustre rw,relatime shared:40 - lustre 10.2.0.1@o2ib:10.2.0.2@o2ib:/work rw,checksum,flock,nouser_xattr,lruresize,lazystatfs,nouser_fid2path,verbose,encrypt
61 27 0:61 / /lustre-local rw,relatime shared:41 - lustre 10.2.0.1@o2ib:/work rw,checksum,localflock,user_xattr,lruresize,lazystatfs
62 27 0:62 / /lustre-none rw,relatime shared:42 - lustre 10.2.0.1@o2ib:/work rw,checksum,user_xattr,lruresize,lazystatfs
63 27 0:63 / /gpfs rw,relatime shared:43 - gpfs fs1 rw
64 27 0:64 / /weka rw,relatime shared:44 - wekafs default rw,writecache,inode_bits=auto,readahead_kb=32768,dentry_max_age_positive=1000,dentry_max_age_negative=0,container_name=client
65 27 0:65 / /beegfs rw,nosuid,relatime shared:45 - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf
66 27 0:66 / /ceph rw,relatime shared:46 - ceph 10.3.0.1:6789,10.3.0.2:6789:/volumes/a rw,name=ml,secret=<hidden>,acl,mon_addr=10.3.0.1:6789/10.3.0.2:6789
67 27 0:67 / /smb rw,relatime shared:47 - cifs //filer/share rw,vers=3.1.1,cache=strict,username=ada,uid=0,noforceuid,gid=0,noforcegid,addr=10.4.0.1,file_mode=0755,dir_mode=0755,soft,nounix,serverino,mapposix,rsize=4194304,wsize=4194304,bsize=1048576,echo_interval=60,actimeo=1
68 27 0:68 / /smb-nobrl rw,relatime shared:48 - cifs //filer/share rw,vers=3.1.1,cache=strict,username=ada,soft,nounix,nobrl,addr=10.4.0.1
69 27 0:69 / /sshfs rw,nosuid,nodev,relatime shared:49 - fuse.sshfs ada@login:/home/ada rw,user_id=1000,group_id=1000
70 27 0:70 / /juice rw,relatime shared:50 - fuse.juicefs JuiceFS:jfs rw,user_id=0,group_id=0,default_permissions,allow_other
71 27 0:71 / /s3 rw,nosuid,nodev,noatime shared:51 - fuse mountpoint-s3 rw,user_id=0,group_id=0,default_permissions
72 27 0:72 / /rclone rw,nosuid,nodev,relatime shared:52 - fuse.rclone remote:bucket rw,user_id=1000,group_id=1000
73 27 0:73 / /strange rw,relatime shared:53 - fuse.newfs newfs rw,user_id=0,group_id=0
74 27 0:74 / /unknown rw,relatime shared:54 - quobyte quobyte@10.5.0.1/vol rw
75 27 8:17 / /usb rw,relatime shared:55 - fuseblk /dev/sdb1 rw,user_id=0,group_id=0,allow_other,blksize=4096
76 27 0:76 / /vm rw,relatime - 9p host0 rw,sync,dirsync,access=client,trans=virtio
77 27 0:77 / /vm2 rw,relatime - virtiofs share rw
78 27 0:78 / /container rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B,upperdir=/var/lib/docker/overlay2/c/diff,workdir=/var/lib/docker/overlay2/c/work
79 27 0:79 /@data /btrfs rw,noatime shared:57 - btrfs /dev/nvme0n1p2 rw,ssd,space_cache=v2,subvolid=257,subvol=/@data
80 27 0:52 /runs /bind rw,nosuid,relatime shared:25 - nfs4 nas:/export/home/ada rw,vers=4.2,hard,proto=tcp,sec=sys,clientaddr=10.1.0.7,local_lock=none,addr=10.1.0.2
81 27 0:81 / /mnt/my\040disk\134x rw,relatime - xfs /dev/my\040disk rw,attr2,inode64
82 27 0:82 / /over rw,relatime - ext4 /dev/sdc1 rw
83 82 0:83 / /over rw,relatime - tmpfs  rw
84 27 0:84 / /gfs2 rw,noatime shared:60 - gfs2 /dev/mapper/cluster-gfs2 rw
85 27 0:85 / /gfs2-local rw,noatime shared:61 - gfs2 /dev/sdd rw,lockproto=lock_nolock
86 27 0:86 / /ro ro,relatime shared:62 - nfs4 nas:/export/ro rw,vers=4.1,local_lock=none
""".strip()  # noqa: E501
"""Lines as the kernel and these filesystems' clients write them."""

ALL = parse_mountinfo(MOUNTINFO)
MAGIC = {name: kind for kind, name in {**LOCAL, **NETWORK}.items()}
MAGIC |= {"nfs4": MAGIC["nfs"], "proc": 0x9FA0, "autofs": 0x0187, "wekafs": 0x57454B41, "quobyte": 0x51554F42}
MAGIC |= {"fuseblk": MAGIC["fuse"], "virtiofs": MAGIC["fuse"]}


def judged(path: str) -> filesystem.Filesystem:
    mount = mount_of(Path(path), ALL)
    assert mount is not None
    return judge(MAGIC["fuse"] if mount.type.startswith("fuse.") else MAGIC[mount.type], mount)


@pytest.mark.parametrize(
    ("path", "kind", "network", "locks"),
    [
        ("/root/runs", "ext4", False, "shared"),
        ("/tmp/runs", "tmpfs", False, "shared"),
        ("/home/ada/runs", "nfs4", True, "shared"),
        ("/nfs3", "nfs", True, "shared"),
        ("/nfs3-nolock/a/b", "nfs", True, "host"),
        ("/nfs3-flock", "nfs", True, "shared"),
        ("/nfs3-posix", "nfs", True, "host"),
        ("/lustre/project/runs", "lustre", True, "shared"),
        ("/lustre-local", "lustre", True, "host"),
        ("/lustre-none", "lustre", True, "host"),
        ("/gpfs", "gpfs", True, "shared"),
        ("/weka", "wekafs", True, "shared"),
        ("/beegfs", "beegfs", True, "host"),
        ("/ceph", "ceph", True, "shared"),
        ("/smb", "cifs", True, "shared"),
        ("/smb-nobrl", "cifs", True, "host"),
        ("/sshfs", "fuse.sshfs", True, "host"),
        ("/juice", "fuse.juicefs", True, "shared"),
        ("/s3", "fuse", True, "host"),
        ("/rclone", "fuse.rclone", True, "host"),
        ("/strange", "fuse.newfs", True, "shared"),
        ("/unknown", "quobyte", True, "shared"),
        ("/usb", "fuseblk", False, "shared"),
        ("/vm", "9p", True, "host"),
        ("/vm2", "virtiofs", True, "host"),
        ("/container/runs", "overlay", False, "shared"),
        ("/btrfs", "btrfs", False, "shared"),
        ("/bind/runs", "nfs4", True, "shared"),
        ("/mnt/my disk\\x/runs", "xfs", False, "shared"),
        ("/over/runs", "tmpfs", False, "shared"),
        ("/gfs2", "gfs2", True, "shared"),
        ("/gfs2-local", "gfs2", True, "host"),
    ],
)
def test_a_folder_is_judged_by_its_mount(path: str, kind: str, network: bool, locks: str) -> None:
    found = judged(path)
    assert (found.type, found.network, found.locks) == (kind, network, locks)
    assert found.reason


@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        ("/nfs3-nolock", "nfs is mounted with local_lock=all and nolock", "without nolock"),
        ("/lustre-local", "lustre is mounted with localflock", "-o flock"),
        ("/lustre-none", "without flock", "-o flock"),
        ("/beegfs", "unless tuneUseGlobalFileLocks=true", "tuneUseGlobalFileLocks=true in beegfs-client.conf"),
        ("/smb-nobrl", "cifs is mounted with nobrl", "without nobrl"),
        ("/sshfs", "sshfs keeps locks on this host", ""),
        ("/s3", "mountpoint-s3 keeps locks on this host", ""),
        ("/strange", "whether locks on newfs hold on other hosts is not known", ""),
        ("/home/ada", "nfs4 carries locks to its server", ""),
        ("/tmp", "tmpfs is on this host", ""),
    ],
)
def test_the_reason_says_what_it_was_judged_by_and_the_remedy_what_to_change(
    path: str, reason: str, remedy: str
) -> None:
    found = judged(path)
    assert reason in found.reason
    assert remedy in found.remedy
    assert bool(remedy) == bool(found.remedy)


def test_a_line_is_read_with_its_escapes_and_both_kinds_of_options() -> None:
    assert mount_of(Path("/mnt/my disk\\x"), ALL) == Mount(
        "/mnt/my disk\\x", "xfs", "/dev/my disk", ("rw", "relatime", "attr2", "inode64")
    )
    assert mount_of(Path("/over"), ALL) == Mount("/over", "tmpfs", "", ("rw", "relatime"))
    read_only = mount_of(Path("/ro"), ALL)
    assert read_only is not None
    assert read_only.options == ("ro", "relatime", "rw", "vers=4.1", "local_lock=none")


def test_a_line_that_is_none_is_passed_over() -> None:
    assert parse_mountinfo("\n36 35 98:0 /\n36 35 98:0 / /mnt rw - ext4\n\n" + MOUNTINFO) == ALL


def test_a_folder_beside_a_mount_with_the_same_beginning_is_not_in_it() -> None:
    beside = mount_of(Path("/lustre-other/runs"), ALL)
    assert beside is not None and beside.point == "/"
    assert mount_of(Path("/x"), []) is None


@pytest.mark.parametrize("kind", sorted(LOCAL | NETWORK))
def test_without_mountinfo_the_number_alone_decides(kind: int) -> None:
    found = judge(kind, None)
    assert (found.type, found.network) == ((LOCAL | NETWORK)[kind], kind in NETWORK)


def test_what_is_not_known_counts_as_network_and_where_nothing_can_be_asked_as_local() -> None:
    assert judge(0x12345678, None).network
    assert judge(0x12345678, Mount("/", "ext4", "", ())).network  # the kernel's number is what counts
    assert not judge(None, None).network
    assert judge(None, None).type == "unknown"
    assert judge(None, Mount("/", "nfs", "", ("nolock",))).locks == "host"


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("tuneUseGlobalFileLocks        = true\n", ["tuneUseGlobalFileLocks=true"]),
        ("tuneUseGlobalFileLocks=false", ["tuneUseGlobalFileLocks=false"]),
        ("# tuneUseGlobalFileLocks = true\nlogLevel = 3\n", []),
        ("tuneUseGlobalFileLocks = false\ntuneUseGlobalFileLocks = 1\n", ["tuneUseGlobalFileLocks=true"]),
    ],
)
def test_beegfs_says_in_its_configuration_whether_locks_are_shared(config: str, settings: list[str]) -> None:
    assert beegfs_locks(config) == settings
    mount = Mount("/beegfs", "beegfs", "beegfs_nodev", ("rw", *settings))
    assert (judge(MAGIC["beegfs"], mount).locks == "shared") == ("tuneUseGlobalFileLocks=true" in settings)


# The real thing.


def test_the_temp_folder_of_the_tests_is_what_mountinfo_says(tmp_path: Path) -> None:
    found = inspect(tmp_path)
    assert found.mount == Path(os.path.realpath(tmp_path)) or found.mount in tmp_path.resolve().parents
    assert os.path.ismount(found.mount)
    kind = statfs_type(tmp_path)
    assert kind in LOCAL and not found.network and found.locks == "shared"
    assert list(tmp_path.iterdir()) == []


def test_stat_names_the_same_number(tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/proc"), Path("/")):
        told = subprocess.run(["stat", "-f", "-c", "%t", str(folder)], capture_output=True, text=True, check=True)
        assert statfs_type(folder) == int(told.stdout, 16)


def test_a_path_that_is_not_there_yet_is_where_its_parent_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "to" / "come")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert existing(tmp_path / "a" / "b") == tmp_path.resolve()
    assert existing(tmp_path / "link" / "runs") == tmp_path.resolve()
    assert inspect(tmp_path / "a" / "b") == inspect(tmp_path) == inspect(tmp_path / "loop")


def test_a_link_lies_where_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert inspect(tmp_path / "link").type == "proc"
    assert inspect(tmp_path / "link").network  # no place for runs, and not in the table


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with a space in its name, and a folder of it mounted elsewhere."""
    disk, bound = tmp_path / "a disk", tmp_path / "bound"
    disk.mkdir()
    bound.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "disk", str(disk)], capture_output=True).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        (disk / "inner").mkdir()
        subprocess.run(["mount", "--bind", str(disk / "inner"), str(bound)], check=True)
        yield tmp_path
    finally:
        subprocess.run(["umount", str(bound)], check=False)
        subprocess.run(["umount", str(disk)], check=True)


def test_real_mounts_are_found_by_name_and_by_bind(mounted: Path) -> None:
    for folder, place in (("a disk", "a disk/x/y"), ("bound", "bound/x")):
        found = inspect(mounted / place)
        assert (found.mount, found.type) == (mounted.resolve() / folder, "tmpfs")
        assert "size=64k" in found.options
    assert inspect(mounted).mount != mounted
    assert str(mounted.resolve() / "a disk") in [mount.point for mount in mounts()]


# Locks.


def test_who_knows_better_says_so_by_a_variable(tmp_path: Path) -> None:
    assert inspect(tmp_path, {"OFFLINE_TRACKER_LOCKS": "host"}).locks == "host"
    assert inspect(tmp_path, {"OFFLINE_TRACKER_LOCKS": "host"}).reason == "OFFLINE_TRACKER_LOCKS=host"
    assert inspect(tmp_path, {"OFFLINE_TRACKER_LOCKS": "shared"}).locks == "shared"
    assert inspect(tmp_path, {"OFFLINE_TRACKER_LOCKS": ""}) == inspect(tmp_path, {})
    with pytest.raises(UsageError, match="OFFLINE_TRACKER_LOCKS='yes': use shared or host"):
        inspect(tmp_path, {"OFFLINE_TRACKER_LOCKS": "yes"})


def test_a_lock_can_be_had_and_no_file_stays(tmp_path: Path) -> None:
    assert probe_lock(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_room_for_a_file_is_an_errno(tmp_path: Path) -> None:
    assert probe_lock(tmp_path / "none") == errno.ENOENT
    assert probe_lock(Path("/proc")) in (errno.ENOENT, errno.EACCES, errno.EPERM)


@pytest.fixture
def without_locks(tmp_path: Path) -> Callable[[str], str]:
    """Run a program on a kernel that has no locks and says that everything is NFS; what it prints."""
    source, library = tmp_path / "nolock.c", tmp_path / "nolock.so"
    source.write_text(NO_LOCKS)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    (tmp_path / "folder").mkdir()
    environ = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(program: str) -> str:
        command = [sys.executable, "-c", f"from pathlib import Path\n{program}"]
        cwd = tmp_path / "folder"
        return subprocess.run(command, cwd=cwd, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout

    return run


NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/vfs.h>
static int answer(const char *name, int fd, int command, void *argument) {
    if (command == F_SETLK || command == F_SETLKW) { errno = ENOLCK; return -1; }
    return ((int (*)(int, int, ...)) dlsym(RTLD_NEXT, name))(fd, command, argument);
}
int fcntl(int fd, int command, ...) {
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
    return answer("fcntl", fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
    return answer("fcntl64", fd, command, argument);
}
int statfs(const char *path, struct statfs *found) { found->f_type = 0x6969; return 0; }
"""


def test_a_lock_that_fails_is_an_errno_and_no_file_stays(tmp_path: Path, without_locks: Callable[[str], str]) -> None:
    told = without_locks("from offline_tracker.filesystem import probe_lock; print(probe_lock(Path('.')))")
    assert int(told) == errno.ENOLCK
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_network_filesystem_on_which_a_lock_fails_keeps_locks_on_the_host(
    tmp_path: Path, without_locks: Callable[[str], str]
) -> None:
    ask = "from offline_tracker.filesystem import inspect; x = inspect('{}'); print(x.network, x.locks, x.reason)"
    told = without_locks(ask.format("to/come"))
    assert told == f"True host a lock on a file there fails: {os.strerror(errno.ENOLCK)}\n"
    assert list((tmp_path / "folder").iterdir()) == []


# Scratch.


def test_scratch_is_the_first_that_can_be_used(tmp_path: Path) -> None:
    job, own = tmp_path / "job", tmp_path / "own"
    environ = {"SLURM_TMPDIR": str(job), "TMPDIR": str(own)}
    assert scratch(environ) == Path("/tmp")
    own.mkdir()
    assert scratch(environ) == own
    job.mkdir()
    assert scratch(environ) == job
    given = tmp_path / "given" / "inner"
    assert scratch({**environ, "OFFLINE_TRACKER_SCRATCH": str(given)}) == given
    assert given.is_dir()


def test_scratch_is_never_on_a_network_filesystem_unless_that_was_said(tmp_path: Path) -> None:
    # /proc is in no table, so it counts as one; and a folder of it can be written by its owner.
    folder = f"/proc/{os.getpid()}/task"
    assert inspect(folder).network
    environ = {"SLURM_TMPDIR": folder, "TMPDIR": str(tmp_path)}
    assert scratch(environ) == tmp_path


def test_a_scratch_that_was_asked_for_and_can_t_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"OFFLINE_TRACKER_SCRATCH=.*file/x can't be made: Not a directory"):
        scratch({"OFFLINE_TRACKER_SCRATCH": str(tmp_path / "file" / "x")})


def test_scratch_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scratch({"OFFLINE_TRACKER_SCRATCH": "here"}) == tmp_path / "here"
    assert Path(tempfile.gettempdir()).is_absolute()
