from llem_integrator.cli import main

main()
