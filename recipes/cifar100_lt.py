"""BiKD on CIFAR-100-LT: a ResNet-32x4 teaches a ResNet-8x4. The protocol is that of `cifar10_lt.py`.

    python recipes/train_teacher.py cifar100 --imbalance-factor 50 --out teachers/cifar100_50
    python recipes/cifar100_lt.py --teacher teachers/cifar100_50 --imbalance-factor 50

The 1,000 meta images are ten per class here. To run the same recipe offline on drawn images, train the teacher on
`glyphs/g100` and add `--data glyphs/g100`.

Paper, Table 1, "Ours": 64.69 / 51.84 / 46.23 at imbalance 10 / 50 / 100 (mean of three seeds, selection not stated).
This recipe: last epoch, mean and spread over the seeds. Not run here on CIFAR: that takes a GPU and a download.
"""

import cifar10_lt

if __name__ == "__main__":
    cifar10_lt.main(**cifar10_lt.arguments(__doc__, data="cifar100"))
