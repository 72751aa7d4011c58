"""`python -m shardline.cli`, for machines where scripts are not on the path."""

from shardline.cli.main import main

if __name__ == "__main__":
    main()
