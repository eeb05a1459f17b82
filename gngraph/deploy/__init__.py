"""Formats that other runtimes read."""

from gngraph.deploy.to_onnx import OnnxReport, export_onnx

__all__ = ["OnnxReport", "export_onnx"]
