"""What `benchmarks.encoder` needs: text sets, worker processes, one file for each library, the report."""
