"""Data sets by name or path, batches, augmentation, and the learn, judge and report splits."""

from __future__ import annotations

from gngraph.data.arrays import from_arrays
from gngraph.data.augment import Augment, CropFlip
from gngraph.data.batches import MapDataset, batches
from gngraph.data.checks import validate
from gngraph.data.dataset import ArrayDataset, Data, HeldDataset, Sample, SampleBatch, SampleDataset
from gngraph.data.preprocess import NORMALIZATIONS, Preparation, Preprocess, normalization
from gngraph.data.sources import SOURCES, ReadData, Source, default_root, load_data, read_data
from gngraph.data.sources.request import Download, MaskFolder, Reads, Request, TableFile
from gngraph.data.splits import Splits, labels_of, make_splits

__all__ = [
    "NORMALIZATIONS",
    "SOURCES",
    "ArrayDataset",
    "Augment",
    "CropFlip",
    "Data",
    "Download",
    "HeldDataset",
    "MapDataset",
    "MaskFolder",
    "Preparation",
    "Preprocess",
    "ReadData",
    "Reads",
    "Request",
    "Sample",
    "SampleBatch",
    "SampleDataset",
    "Source",
    "Splits",
    "TableFile",
    "batches",
    "default_root",
    "from_arrays",
    "labels_of",
    "load_data",
    "make_splits",
    "normalization",
    "read_data",
    "validate",
]
