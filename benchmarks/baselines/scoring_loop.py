"""Scores a file with pyarrow and onnxruntime, as one would write it by hand: MODEL INPUT OUTPUT."""

import sys

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq


def main(model: str, source: str, output: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [each.name for each in session.get_outputs()]
    is_csv = source.endswith(".csv")
    batches = pacsv.open_csv(source) if is_csv else pq.ParquetFile(source).iter_batches(65_536)
    writer = None
    for batch in batches:
        rows = np.column_stack([column.to_numpy() for column in batch.columns]).astype(np.float32)
        columns, names = list(batch.columns), list(batch.schema.names)
        for output_name, values in zip(outputs, session.run(outputs, {name: rows}), strict=True):
            for index, column in enumerate(values.reshape(len(rows), -1).T):
                columns.append(pa.array(np.ascontiguousarray(column)))
                names.append(f"prediction_{output_name}_{index}")
        scored = pa.RecordBatch.from_arrays(columns, names=names)
        if writer is None:
            make = pacsv.CSVWriter if is_csv else pq.ParquetWriter
            writer = make(output, scored.schema)
        writer.write(scored)
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
