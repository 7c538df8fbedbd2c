"""Numbers of the literature, to stand beside ours.

A figure of another network or another OOD set says so in its source; a difference of more than
3 points has its explanation.
"""

from training.published.cifar import CIFAR10, CIFAR10_DENSENET, CIFAR10_RESNET, CIFAR100_DENSENET
from training.published.grey_images import FASHION_MNIST, FASHION_MNIST_ENSEMBLE, MNIST
from training.published.newsgroups import NEWSGROUPS, NEWSGROUPS_MEANS
from training.published.studies import PUBLISHED_MEANS, PublishedMean
from training.published.table import PublishedTable

# config name -> its table
PUBLISHED: dict[str, PublishedTable] = {
    "cifar10": CIFAR10,
    "cifar10-densenet": CIFAR10_DENSENET,
    "cifar10-resnet": CIFAR10_RESNET,
    "cifar100-densenet": CIFAR100_DENSENET,
    "fashion-mnist": FASHION_MNIST,
    "fashion-mnist-ensemble": FASHION_MNIST_ENSEMBLE,
    "mnist": MNIST,
    "newsgroups": NEWSGROUPS,
}

__all__ = ["NEWSGROUPS_MEANS", "PUBLISHED", "PUBLISHED_MEANS", "PublishedMean", "PublishedTable"]
